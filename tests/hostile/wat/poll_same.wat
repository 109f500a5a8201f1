;; C9: one pollable, "times" times in one list, polled for ever. Ready after "nanoseconds": with 0 each
;; poll is over at once, with the largest number the first one waits for ever.
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
    (import "host" "mem" (memory 1))
    (import "host" "after" (func $after (param i64) (result i32)))
    (import "host" "poll" (func $poll (param i32 i32 i32)))
    (func (export "run") (param $times i32) (param $after i64) (local $p i32) (local $at i32)
      (local.set $p (call $after (local.get $after)))
      (if (i32.eq (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $times) (i32.const 14)))) (i32.const -1))
        (then unreachable))
      ;; The list is at 64, the answers are behind it.
      (i32.store (i32.const 4) (i32.add (i32.const 64) (i32.shl (local.get $times) (i32.const 2))))
      (loop $fill
        (i32.store offset=64 (i32.shl (local.get $at) (i32.const 2)) (local.get $p))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $fill (i32.lt_u (local.get $at) (local.get $times))))
      (loop $l (call $poll (i32.const 64) (local.get $times) (i32.const 8)) br $l)))
  (core instance $i (instantiate $m (with "host" (instance $host))))
  (func (export "run") (param "times" u32) (param "nanoseconds" u64) (canon lift (core func $i "run"))))
