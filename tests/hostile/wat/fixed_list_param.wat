;; A10: takes a list of a fixed length.
(component
  (core module $m (memory (export "mem") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 64)
    (func (export "run") (param i32 i32)))
  (core instance $i (instantiate $m))
  (func (export "run") (param "v" (list u32 2))
    (canon lift (core func $i "run") (memory (core memory $i "mem")) (realloc (core func $i "realloc")))))
