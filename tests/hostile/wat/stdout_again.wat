;; M19: takes stdout and drops it, "times" times. It succeeds, and leaves nothing behind.
(component
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (alias outer 1 $error (type $e'))
    (export "error" (type $e (eq $e')))
    (type $s' (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $s (eq $s')))
    (export "output-stream" (type $o (sub resource)))
    (export "[method]output-stream.write"
      (func (param "self" (borrow $o)) (param "contents" (list u8)) (result (result (error $s)))))))
  (alias export $streams "output-stream" (type $output))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output (type $o'))
    (export "output-stream" (type $o (eq $o')))
    (export "get-stdout" (func (result (own $o))))))
  (core module $heap (memory (export "mem") 1))
  (core instance $heap (instantiate $heap))
  (core func $get (canon lower (func $stdout "get-stdout")))
  (core func $write (canon lower (func $streams "[method]output-stream.write") (memory (core memory $heap "mem"))))
  (core func $drop (canon resource.drop $output))
  (core instance $host (export "get" (func $get)) (export "write" (func $write)) (export "drop" (func $drop)))
  (core module $m
    (import "host" "get" (func $get (result i32)))
    (import "host" "drop" (func $drop (param i32)))
    (func (export "run") (param $times i32)
      (loop $l
        (call $drop (call $get))
        (br_if $l (local.tee $times (i32.sub (local.get $times) (i32.const 1)))))))
  (core instance $i (instantiate $m (with "host" (instance $host))))
  (func (export "run") (param "times" u32) (canon lift (core func $i "run"))))
