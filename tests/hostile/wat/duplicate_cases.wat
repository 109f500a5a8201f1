;; A20: two cases whose names differ in nothing but capital letters.
(component
  (type $t' (enum "a-case" "A-CASE"))
  (export $t "t" (type $t'))
  (core module $m (func (export "run") (param i32)))
  (core instance $i (instantiate $m))
  (func (export "run") (param "v" $t) (canon lift (core func $i "run"))))
