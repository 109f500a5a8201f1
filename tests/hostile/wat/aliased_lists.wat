;; M12: a list of "count" strings that are all the same "bytes" bytes of memory: 8 bytes of descriptor
;; make the host copy any number.
(component
  (core module $m (memory (export "mem") 1)
    (func (export "run") (param $count i32) (param $bytes i32) (result i32) (local $at i32)
      ;; The text is at 64, the descriptors are behind it.
      (local.set $at (i32.and (i32.add (local.get $bytes) (i32.const 72)) (i32.const -8)))
      (i32.store (i32.const 0) (local.get $at))
      (i32.store (i32.const 4) (local.get $count))
      (if (i32.eq (i32.const -1) (memory.grow (i32.add (i32.const 1) (i32.shr_u
            (i32.add (local.get $at) (i32.shl (local.get $count) (i32.const 3))) (i32.const 16)))))
        (then unreachable))
      (memory.fill (i32.const 64) (i32.const 0x61) (local.get $bytes))
      (block $done
        (loop $l
          (br_if $done (i32.eqz (local.get $count)))
          (i32.store (local.get $at) (i32.const 64))
          (i32.store offset=4 (local.get $at) (local.get $bytes))
          (local.set $at (i32.add (local.get $at) (i32.const 8)))
          (local.set $count (i32.sub (local.get $count) (i32.const 1)))
          br $l))
      i32.const 0))
  (core instance $i (instantiate $m))
  (func (export "run") (param "count" u32) (param "bytes" u32) (result (list string))
    (canon lift (core func $i "run") (memory (core memory $i "mem")))))
