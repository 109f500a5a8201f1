;; C14, A21: traps at once, every time in the same way.
(component
  (core module $m (func (export "run") unreachable))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
