;; A1: a string in UTF-16 with half a surrogate pair.
(component
  (core module $m (memory (export "mem") 1)
    (data (i32.const 0) "\10\00\00\00\01\00\00\00")
    (data (i32.const 16) "\00\d8")
    (func (export "run") (result i32) i32.const 0))
  (core instance $i (instantiate $m))
  (func (export "run") (result string)
    (canon lift (core func $i "run") (memory (core memory $i "mem")) string-encoding=utf16)))
