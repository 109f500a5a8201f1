;; C5: returns a resource whose destructor never ends. A resource cannot cross: refused.
(component
  (core module $d (func (export "loop") (param i32) (loop $l br $l)))
  (core instance $d (instantiate $d))
  (type $r' (resource (rep i32) (dtor (core func $d "loop"))))
  (core func $new (canon resource.new $r'))
  (core module $m
    (import "r" "new" (func $new (param i32) (result i32)))
    (func (export "run") (result i32) (call $new (i32.const 1))))
  (core instance $i (instantiate $m (with "r" (instance (export "new" (func $new))))))
  (export $r "r" (type $r'))
  (func (export "run") (result (own $r)) (canon lift (core func $i "run"))))
