;; A21: counts its calls. Each run has a store of its own, so the answer is always 1.
(component
  (core module $m (global $n (mut i32) (i32.const 0))
    (func (export "run") (result i32) (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n)))
  (core instance $i (instantiate $m))
  (func (export "run") (result u32) (canon lift (core func $i "run"))))
