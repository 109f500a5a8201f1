;; A6: a list of numbers of 32 bits at an odd address.
(component
  (core module $m (memory (export "mem") 1) 
    (func (export "run") (result i32) (i32.store (i32.const 0) (i32.const 65)) (i32.store (i32.const 4) (i32.const 1)) i32.const 0))
  (core instance $i (instantiate $m))
  (func (export "run") (result (list u32)) (canon lift (core func $i "run") (memory (core memory $i "mem")))))
