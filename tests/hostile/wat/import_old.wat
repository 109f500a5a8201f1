;; B12: asks for a version from before the first.
(component
  (import "wasi:clocks/monotonic-clock@0.1.0" (instance (export "now" (func (result u64)))))
  (core module $m (func (export "run")))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
