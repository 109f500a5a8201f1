;; A6: the place of the result itself is odd.
(component
  (core module $m (memory (export "mem") 1) 
    (func (export "run") (result i32) i32.const 65))
  (core instance $i (instantiate $m))
  (func (export "run") (result string) (canon lift (core func $i "run") (memory (core memory $i "mem")))))
