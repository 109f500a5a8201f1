;; A2: a char that is a surrogate.
(component
  (core module $m (memory (export "mem") 1) 
    (func (export "run") (result i32) i32.const 0xd800))
  (core instance $i (instantiate $m))
  (func (export "run") (result char) (canon lift (core func $i "run") (memory (core memory $i "mem")))))
