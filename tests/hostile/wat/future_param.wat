;; A10: takes a value of the type (future u32).
(component
  (core module $m (func (export "run") (param i32)))
  (core instance $i (instantiate $m))
  (func (export "run") (param "v" (future u32)) (canon lift (core func $i "run"))))
