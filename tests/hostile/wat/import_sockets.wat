;; B11, W18: asks for sockets and for looking up names.
(component
  (import "wasi:sockets/network@0.2.0" (instance))
  (import "wasi:sockets/instance-network@0.2.0" (instance))
  (import "wasi:sockets/tcp@0.2.0" (instance))
  (import "wasi:sockets/tcp-create-socket@0.2.0" (instance))
  (import "wasi:sockets/udp@0.2.0" (instance))
  (import "wasi:sockets/udp-create-socket@0.2.0" (instance))
  (import "wasi:sockets/ip-name-lookup@0.2.0" (instance))
  (core module $m (func (export "run")))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
