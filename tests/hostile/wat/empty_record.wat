;; A7: a record without fields has no size: a list of any number of them would fit anywhere.
(component
  (type $t' (record))
  (export $t "t" (type $t'))
  (core module $m (func (export "run") (param i32)))
  (core instance $i (instantiate $m))
  (func (export "run") (param "v" $t) (canon lift (core func $i "run"))))
