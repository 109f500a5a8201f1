;; M9: the host lowers a result, for which it calls realloc, which calls the host again. The engine
;; forbids to leave a component from its realloc, so it is a trap and no endless fiber.
(component
  (import "wasi:random/random@0.2.0" (instance $random
    (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
  (core module $heap
    (type $bytes (func (param i64 i32)))
    (memory (export "mem") 1)
    (table (export "table") 1 funcref)
    (func $again (call_indirect (type $bytes) (i64.const 16) (i32.const 8) (i32.const 0)))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (call $again) i32.const 64)
    (func (export "run") (call $again)))
  (core instance $heap (instantiate $heap))
  (core func $bytes (canon lower (func $random "get-random-bytes")
    (memory (core memory $heap "mem")) (realloc (core func $heap "realloc"))))
  (core module $fill
    (import "heap" "table" (table 1 funcref))
    (import "random" "bytes" (func $bytes (param i64 i32)))
    (elem (i32.const 0) $bytes))
  (core instance (instantiate $fill
    (with "heap" (instance $heap)) (with "random" (instance (export "bytes" (func $bytes))))))
  (func (export "run") (canon lift (core func $heap "run"))))
