;; A3: an option that is neither none nor some.
(component
  (core module $m (memory (export "mem") 1)
    (func (export "run") (result i32) (i32.store8 (i32.const 0) (i32.const 2)) i32.const 0))
  (core instance $i (instantiate $m))
  (func (export "run") (result (option u32)) (canon lift (core func $i "run") (memory (core memory $i "mem")))))
