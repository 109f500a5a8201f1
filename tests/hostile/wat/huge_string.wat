;; M11: a string of "len" bytes, all NUL: valid UTF-8, six bytes each in JSON. M13 with 340 000.
(component
  (core module $m (memory (export "mem") 1)
    (func (export "run") (param $len i32) (result i32)
      (drop (memory.grow (i32.add (i32.shr_u (local.get $len) (i32.const 16)) (i32.const 1))))
      (i32.store (i32.const 4) (local.get $len))
      ;; It begins behind its own descriptor.
      (i32.store (i32.const 0) (i32.const 8))
      i32.const 0))
  (core instance $i (instantiate $m))
  (func (export "run") (param "len" u32) (result string)
    (canon lift (core func $i "run") (memory (core memory $i "mem")))))
