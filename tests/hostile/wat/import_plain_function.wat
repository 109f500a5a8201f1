;; B12: asks for a function of no interface.
(component
  (import "launch" (func (param "what" string)))
  (core module $m (func (export "run")))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
