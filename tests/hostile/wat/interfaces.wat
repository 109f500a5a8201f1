;; N3, N4: exports of interfaces with versions; two have a function `run`, one `only`. Every name is legal.
(component
  (core module $m (func (export "run")))
  (core instance $i (instantiate $m))
  (func $run (canon lift (core func $i "run")))
  (instance (export "ns:pkg/one@1.0.0") (export "run" (func $run)) (export "only" (func $run)))
  (instance (export "ns:pkg/two@1.0.0-rc.1+build.5") (export "run" (func $run)))
  (export "RUN-it" (func $run))
  (export "a1-b2-C3" (func $run)))
