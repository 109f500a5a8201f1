;; M8: recursion through a table, no function calls itself.
(component
  (core module $m
    (type $f (func))
    (table 2 2 funcref)
    (elem (i32.const 0) $a $b)
    (func $a (export "run") (call_indirect (type $f) (i32.const 1)))
    (func $b (call_indirect (type $f) (i32.const 0))))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
