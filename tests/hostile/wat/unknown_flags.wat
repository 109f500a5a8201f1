;; A20: bits are set for which there is no flag. The standard ignores them.
(component
  (type $t' (flags "a" "b"))
  (export $t "t" (type $t'))
  (core module $m (func (export "run") (result i32) i32.const -2))
  (core instance $i (instantiate $m))
  (func (export "run") (result $t) (canon lift (core func $i "run"))))
