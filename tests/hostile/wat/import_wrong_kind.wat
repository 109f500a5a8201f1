;; B12: the name of an interface for a plain function.
(component
  (import "wasi:clocks/monotonic-clock@0.2.0" (func))
  (core module $m (func (export "run")))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
