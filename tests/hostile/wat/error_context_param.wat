;; A10: takes a value of the type error-context.
(component
  (core module $m (func (export "run") (param i32)))
  (core instance $i (instantiate $m))
  (func (export "run") (param "v" error-context) (canon lift (core func $i "run"))))
