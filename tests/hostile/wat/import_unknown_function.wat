;; B12: the right interface with a function that it has not.
(component
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance (export "set" (func (param "now" u64)))))
  (core module $m (func (export "run")))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
