;; The result is there, and what frees it never ends.
(component
  (core module $m
    (memory (export "mem") 1)
    (func (export "run") (result i32) i32.const 8)
    (func (export "post") (param i32) (loop $l br $l)))
  (core instance $i (instantiate $m))
  (func (export "run") (result string)
    (canon lift (core func $i "run") (memory (core memory $i "mem")) (post-return (core func $i "post")))))
