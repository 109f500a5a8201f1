;; B12: asks for an interface of no version.
(component
  (import "wasi:clocks/monotonic-clock" (instance (export "now" (func (result u64)))))
  (core module $m (func (export "run")))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
