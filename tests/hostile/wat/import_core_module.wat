;; B12: asks for a core module.
(component
  (import "code" (core module (export "run" (func))))
  (core module $m (func (export "run")))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
