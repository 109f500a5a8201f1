;; Logs for ever.
(component
  (import "sandclock:plugin/log@1.0.0" (instance $log
    (type $level' (enum "trace" "debug" "info" "warn" "error"))
    (export "level" (type $level (eq $level')))
    (export "log" (func (param "level" $level) (param "message" string)))))
  (core module $heap (memory (export "mem") 1))
  (core instance $heap (instantiate $heap))
  (core func $log (canon lower (func $log "log") (memory (core memory $heap "mem"))))
  (core module $m
    (import "host" "log" (func $log (param i32 i32 i32)))
    (func (export "run") (loop $l (call $log (i32.const 2) (i32.const 0) (i32.const 100)) br $l)))
  (core instance $i (instantiate $m (with "host" (instance (export "log" (func $log))))))
  (func (export "run") (canon lift (core func $i "run"))))
