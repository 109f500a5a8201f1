;; A10: takes a handle of a resource of its own.
(component
  (type $r' (resource (rep i32)))
  (export $r "r" (type $r'))
  (core module $m (func (export "run") (param i32)))
  (core instance $i (instantiate $m))
  (func (export "run") (param "v" (borrow $r)) (canon lift (core func $i "run"))))
