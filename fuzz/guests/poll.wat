;; Takes timers that are over at once, polls each of them four times in one list, and drops none.
(component
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "poll" (func (param "in" (list (borrow $p))) (result (list u32))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $p'))
    (export "pollable" (type $p (eq $p')))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (core module $heap
    (memory (export "mem") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
  (core instance $heap (instantiate $heap))
  (core func $after (canon lower (func $clock "subscribe-duration")))
  (core func $poll (canon lower (func $poll "poll")
    (memory (core memory $heap "mem")) (realloc (core func $heap "realloc"))))
  (core module $m
    (import "host" "mem" (memory 1))
    (import "host" "after" (func $after (param i64) (result i32)))
    (import "host" "poll" (func $poll (param i32 i32 i32)))
    (func (export "run") (local $p i32)
      (loop $l
        (local.set $p (call $after (i64.const 0)))
        (i32.store (i32.const 64) (local.get $p))
        (i32.store (i32.const 68) (local.get $p))
        (i32.store (i32.const 72) (local.get $p))
        (i32.store (i32.const 76) (local.get $p))
        (call $poll (i32.const 64) (i32.const 4) (i32.const 8))
        br $l)))
  (core instance $i (instantiate $m (with "host" (instance
    (export "mem" (memory $heap "mem")) (export "after" (func $after)) (export "poll" (func $poll))))))
  (func (export "run") (canon lift (core func $i "run"))))
