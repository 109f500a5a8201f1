;; C6: one unit of fuel buys host work: asks for so many random bytes, for ever.
(component
  (import "wasi:random/random@0.2.0" (instance $random
    (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
  (core module $heap
    (memory (export "mem") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 64))
  (core instance $heap (instantiate $heap))
  (core func $bytes (canon lower (func $random "get-random-bytes")
    (memory (core memory $heap "mem")) (realloc (core func $heap "realloc"))))
  (core module $m
    (import "random" "bytes" (func $bytes (param i64 i32)))
    (func (export "run") (param i64) (loop $l (call $bytes (local.get 0) (i32.const 8)) br $l)))
  (core instance $i (instantiate $m (with "random" (instance (export "bytes" (func $bytes))))))
  ;; At most 65 000: there is one page of memory.
  (func (export "run") (param "bytes" u64) (canon lift (core func $i "run"))))
