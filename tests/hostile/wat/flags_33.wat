;; A20: more than 32 flags.
(component
  (type $t' (flags "f0" "f1" "f2" "f3" "f4" "f5" "f6" "f7" "f8" "f9" "f10" "f11" "f12" "f13" "f14" "f15" "f16" "f17" "f18" "f19" "f20" "f21" "f22" "f23" "f24" "f25" "f26" "f27" "f28" "f29" "f30" "f31" "f32"))
  (export $t "t" (type $t'))
  (core module $m (func (export "run") (param i32)))
  (core instance $i (instantiate $m))
  (func (export "run") (param "v" $t) (canon lift (core func $i "run"))))
