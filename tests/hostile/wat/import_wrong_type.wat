;; B12: the right interface and function with another type.
(component
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance (export "now" (func (result string)))))
  (core module $m (func (export "run")))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
