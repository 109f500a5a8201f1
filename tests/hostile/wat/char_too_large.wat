;; A2: a char past the last one.
(component
  (core module $m (memory (export "mem") 1) 
    (func (export "run") (result i32) i32.const 0x110000))
  (core instance $i (instantiate $m))
  (func (export "run") (result char) (canon lift (core func $i "run") (memory (core memory $i "mem")))))
