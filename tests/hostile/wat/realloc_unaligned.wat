;; A5: realloc answers with an odd address for numbers of 32 bits.
(component
  (core module $m (memory (export "mem") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 65)
    (func (export "run") (param i32 i32)))
  (core instance $i (instantiate $m))
  (func (export "run") (param "v" (list u32))
    (canon lift (core func $i "run") (memory (core memory $i "mem")) (realloc (core func $i "realloc")))))
