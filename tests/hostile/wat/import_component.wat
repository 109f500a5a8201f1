;; B12: asks for a component.
(component
  (import "part" (component (export "run" (func))))
  (core module $m (func (export "run")))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
