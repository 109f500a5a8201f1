;; A3: a bool that is 77. Any number but 0 is true by the standard.
(component
  (core module $m (memory (export "mem") 1) 
    (func (export "run") (result i32) i32.const 77))
  (core instance $i (instantiate $m))
  (func (export "run") (result bool) (canon lift (core func $i "run") (memory (core memory $i "mem")))))
