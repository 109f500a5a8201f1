;; U3: returns the secret `token` as its result, and fails with it if "fail" is true.
(component
  (import "sandclock:plugin/secrets@1.0.0" (instance $secrets
    (type $e' (variant (case "denied") (case "refused" string)))
    (export "error" (type $e (eq $e')))
    (export "get" (func (param "name" string) (result (result string (error $e)))))))
  (core module $heap
    (memory (export "mem") 1)
    (data (i32.const 16) "token")
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
  (core instance $heap (instantiate $heap))
  (core func $get (canon lower (func $secrets "get")
    (memory (core memory $heap "mem")) (realloc (core func $heap "realloc"))))
  (core instance $host (export "get" (func $get)) (export "mem" (memory $heap "mem")))
  (core module $m
    (import "host" "mem" (memory 1))
    (import "host" "get" (func $get (param i32 i32 i32)))
    ;; The answer of "get" is at 64: whether it is an error, then the text. Ours is at 128.
    (func (export "run") (param $fail i32) (result i32)
      (call $get (i32.const 16) (i32.const 5) (i32.const 64))
      (i32.store8 (i32.const 128) (local.get $fail))
      (i32.store (i32.const 132) (i32.load (i32.const 68)))
      (i32.store (i32.const 136) (i32.load (i32.const 72)))
      i32.const 128)
    ;; Asks again and again: cheap for the guest, and never a wait.
    (func (export "loop") (loop $l (call $get (i32.const 16) (i32.const 5) (i32.const 64)) br $l)))
  (core instance $i (instantiate $m (with "host" (instance $host))))
  (func (export "run") (param "fail" bool) (result (result string (error string)))
    (canon lift (core func $i "run") (memory (core memory $heap "mem"))))
  (func (export "loop") (canon lift (core func $i "loop"))))
