;; A7: flags without any.
(component
  (type $t' (flags))
  (export $t "t" (type $t'))
  (core module $m (func (export "run") (param i32)))
  (core instance $i (instantiate $m))
  (func (export "run") (param "v" $t) (canon lift (core func $i "run"))))
