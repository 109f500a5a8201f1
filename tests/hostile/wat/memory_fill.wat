;; C7: fills so many pages again and again: much work between two looks at the fuel.
(component
  (core module $m (memory 0)
    (func (export "run") (param $pages i32)
      (if (i32.eq (memory.grow (local.get $pages)) (i32.const -1)) (then unreachable))
      (loop $l
        (memory.fill (i32.const 0) (i32.const 7) (i32.shl (local.get $pages) (i32.const 16)))
        br $l)))
  (core instance $i (instantiate $m))
  (func (export "run") (param "pages" u32) (canon lift (core func $i "run"))))
