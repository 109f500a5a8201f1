;; M12: lists of lists of lists, each of "count" times the same one: count^3 elements from 24 * count bytes.
(component
  (core module $m (memory (export "mem") 1)
    ;; Fills a list of "count" descriptors at "at", each of "count" elements at "to".
    (func $fill (param $at i32) (param $to i32) (param $count i32) (local $left i32)
      (local.set $left (local.get $count))
      (block $done
        (loop $l
          (br_if $done (i32.eqz (local.get $left)))
          (i32.store (local.get $at) (local.get $to))
          (i32.store offset=4 (local.get $at) (local.get $count))
          (local.set $at (i32.add (local.get $at) (i32.const 8)))
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          br $l)))
    ;; At most 2 000, for the one page.
    (func (export "run") (param $count i32) (result i32)
      (i32.store (i32.const 0) (i32.const 64))
      (i32.store (i32.const 4) (local.get $count))
      (call $fill (i32.const 64) (i32.const 20000) (local.get $count))
      (call $fill (i32.const 20000) (i32.const 40000) (local.get $count))
      i32.const 0))
  (core instance $i (instantiate $m))
  (func (export "run") (param "count" u32) (result (list (list (list u64))))
    (canon lift (core func $i "run") (memory (core memory $i "mem")))))
