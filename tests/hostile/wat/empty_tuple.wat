;; A7: a list of a tuple of nothing.
(component
  (type $t' (list (tuple)))
  (export $t "t" (type $t'))
  (core module $m (func (export "run") (param i32)))
  (core instance $i (instantiate $m))
  (func (export "run") (param "v" $t) (canon lift (core func $i "run"))))
