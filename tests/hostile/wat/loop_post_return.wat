;; C3: the result is there and right, the post-return that frees it never ends.
(component
  (core module $m
    (memory (export "mem") 1)
    (data (i32.const 8) "\20\00\00\00\02\00\00\00")
    (data (i32.const 32) "ok")
    (func (export "run") (result i32) i32.const 8)
    (func (export "post") (param i32) (loop $l br $l)))
  (core instance $i (instantiate $m))
  (func (export "run") (result string)
    (canon lift (core func $i "run") (memory (core memory $i "mem")) (post-return (core func $i "post")))))
