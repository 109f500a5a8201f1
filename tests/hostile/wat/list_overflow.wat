;; A4, M11: 2^32 - 1 numbers of 64 bits: their size does not fit into 32 bits.
(component
  (core module $m (memory (export "mem") 1) 
    (func (export "run") (result i32) (i32.store (i32.const 0) (i32.const 0)) (i32.store (i32.const 4) (i32.const -1)) i32.const 0))
  (core instance $i (instantiate $m))
  (func (export "run") (result (list u64)) (canon lift (core func $i "run") (memory (core memory $i "mem")))))
