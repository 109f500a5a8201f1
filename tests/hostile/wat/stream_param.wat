;; A10: takes a value of the type (stream u8).
(component
  (core module $m (func (export "run") (param i32)))
  (core instance $i (instantiate $m))
  (func (export "run") (param "v" (stream u8)) (canon lift (core func $i "run"))))
