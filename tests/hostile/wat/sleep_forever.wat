;; C8: sleeps until the end of time, in one host call: neither fuel nor epoch is looked at.
(component
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))
    (export "poll" (func (param "in" (list (borrow $p))) (result (list u32))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $p'))
    (export "pollable" (type $p (eq $p')))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (core module $heap
    (memory (export "mem") 1)
    ;; The answers of a poll go where the word at 4 says, with as much memory as they need.
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $missing i32)
      (local.set $missing (i32.sub
        (i32.add (i32.shr_u (i32.add (i32.load (i32.const 4)) (local.get 3)) (i32.const 16)) (i32.const 1))
        (memory.size)))
      (if (i32.gt_s (local.get $missing) (i32.const 0))
        (then (if (i32.eq (memory.grow (local.get $missing)) (i32.const -1)) (then unreachable))))
      (i32.load (i32.const 4))))
  (core instance $heap (instantiate $heap))
  (core func $after (canon lower (func $clock "subscribe-duration")))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $poll (canon lower (func $poll "poll")
    (memory (core memory $heap "mem")) (realloc (core func $heap "realloc"))))
  (core func $drop (canon resource.drop $pollable))
  (core instance $host (export "after" (func $after)) (export "block" (func $block)) (export "poll" (func $poll))
    (export "drop" (func $drop)) (export "mem" (memory $heap "mem")))
  (core module $m
    (import "host" "after" (func $after (param i64) (result i32)))
    (import "host" "block" (func $block (param i32)))
    (func (export "run") (call $block (call $after (i64.const -1)))))
  (core instance $i (instantiate $m (with "host" (instance $host))))
  (func (export "run") (canon lift (core func $i "run"))))
