// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// readTimeout bounds how long a connected client may take to send its line.
const readTimeout = 10 * time.Second

// writeTimeout bounds how long a client may take to read its answer.
const writeTimeout = 10 * time.Second

// Func serves one operation: it gets the request's body and returns what
// becomes the response's, or an error; an *Error keeps its code.
type Func func(ctx context.Context, body json.RawMessage) (any, error)

// Handler serves requests by operation. What it lacks is answered with
// CodeUnknown.
type Handler map[Op]Func

// Logger is what Serve needs of a *slog.Logger: naming the type would link the
// package into every CNI binary.
type Logger interface {
	Warn(msg string, args ...any)
	Error(msg string, args ...any)
}

// None is the body of operations that take or return nothing.
type None struct{}

// Do makes a Func of a typed function. Unknown fields in the body are ignored,
// so that an older agent can serve a newer client.
func Do[In, Out any](f func(context.Context, In) (Out, error)) Func {
	return func(ctx context.Context, body json.RawMessage) (any, error) {
		var in In
		if len(body) > 0 {
			if err := json.Unmarshal(body, &in); err != nil {
				return nil, Errorf(CodeInvalid, "decode request: %v", err)
			}
		}
		return f(ctx, in)
	}
}

// Listen makes the socket with mode 0600. It takes the place of one that an
// earlier agent left behind in one step: there is no moment without a socket.
func Listen(path string) (net.Listener, error) {
	temp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false) // the path may be a successor's by then
	if err := errors.Join(os.Chmod(temp, 0o600), os.Rename(temp, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), listener.Close(), os.Remove(temp))
	}
	return listener, nil
}

// Serve answers requests until ctx ends, then closes the listener, waits for
// the requests under way and returns nil. Another error of the listener ends
// it too and is returned. Requests are served concurrently.
func Serve(ctx context.Context, listener net.Listener, handler Handler, log Logger) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept on %s: %w", listener.Addr(), err)
		}
		running.Go(func() {
			defer conn.Close()
			if err := serve(ctx, conn, handler, log); err != nil {
				log.Warn("agent api", "err", err)
			}
		})
	}
}

// serve answers the one request of a connection.
func serve(ctx context.Context, conn net.Conn, handler Handler, log Logger) error {
	if err := conn.SetReadDeadline(time.Now().Add(readTimeout)); err != nil {
		return err
	}
	line, err := readLine(conn, maxRequest)
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	answer, err := json.Marshal(handler.answer(ctx, line, log))
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := conn.Write(append(answer, '\n')); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// answer decodes a request, calls its Func and wraps what that returned.
func (h Handler) answer(ctx context.Context, line []byte, log Logger) (response Response) {
	defer func() {
		if r := recover(); r != nil {
			log.Error("agent api", "panic", r, "stack", string(debug.Stack()))
			response = Response{Error: Errorf(CodeInternal, "agent: panic: %v", r)}
		}
	}()
	var request Request
	if err := json.Unmarshal(bytes.TrimSpace(line), &request); err != nil {
		return Response{Error: Errorf(CodeInvalid, "decode request: %v", err)}
	}
	if request.Version != Version {
		return Response{Error: Errorf(CodeInvalid, "request of version %d, this agent speaks %d", request.Version, Version)}
	}
	serveOp, ok := h[request.Op]
	if !ok {
		return Response{Error: Errorf(CodeUnknown, "unknown operation %q", request.Op)}
	}
	out, err := serveOp(ctx, request.Body)
	if err != nil {
		return Response{Error: asError(err)}
	}
	body, err := json.Marshal(out)
	if err != nil {
		return Response{Error: Errorf(CodeInternal, "encode answer: %v", err)}
	}
	return Response{Body: body}
}

func asError(err error) *Error {
	if typed, ok := errors.AsType[*Error](err); ok {
		return &Error{Code: typed.Code, Msg: err.Error()}
	}
	return Errorf(CodeInternal, "%v", err)
}
