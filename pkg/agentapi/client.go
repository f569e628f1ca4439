// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// defaultTimeout is a client's patience when none is set: the 10 s that an ADD
// may wait for the first sync, and some more.
const defaultTimeout = 15 * time.Second

// Client calls the agent. It keeps nothing between calls and may be copied.
type Client struct {
	Path    string        // the agent's socket; empty: DefaultSocket
	Timeout time.Duration // of one call, dialling included; zero: 15 s
	// Handler answers in place of an agent, in this process; nil: the agent does.
	Handler Handler
}

// AddEndpoint hands a pod's interface to the agent. When it returns nil the
// endpoint's programs and policy are in force.
func (c Client) AddEndpoint(ctx context.Context, e Endpoint) error {
	return c.call(ctx, OpEndpointAdd, e, nil)
}

// DeleteEndpoint takes a pod's interface away.
func (c Client) DeleteEndpoint(ctx context.Context, e EndpointDelete) error {
	return c.call(ctx, OpEndpointDelete, e, nil)
}

// CheckEndpoint returns an error if the agent doesn't keep the endpoint as
// given.
func (c Client) CheckEndpoint(ctx context.Context, e Endpoint) error {
	return c.call(ctx, OpEndpointCheck, e, nil)
}

// GC makes the agent remove every endpoint of a network that is not in valid.
func (c Client) GC(ctx context.Context, network string, valid []EndpointKey) error {
	return c.call(ctx, OpGC, GC{Network: network, Valid: valid}, nil)
}

// Status asks whether the agent can serve an ADD.
func (c Client) Status(ctx context.Context) (Status, error) { return get[Status](ctx, c, OpStatus) }

// Info describes agent and node.
func (c Client) Info(ctx context.Context) (Info, error) { return get[Info](ctx, c, OpInfo) }

// Pods lists the node's endpoints.
func (c Client) Pods(ctx context.Context) ([]Pod, error) { return get[[]Pod](ctx, c, OpPods) }

// Services lists the frontends in force.
func (c Client) Services(ctx context.Context) ([]Service, error) {
	return get[[]Service](ctx, c, OpServices)
}

// Addresses lists the LoadBalancer addresses known to the node.
func (c Client) Addresses(ctx context.Context) ([]Address, error) {
	return get[[]Address](ctx, c, OpAddresses)
}

// Leases lists the node's leases.
func (c Client) Leases(ctx context.Context) ([]Lease, error) { return get[[]Lease](ctx, c, OpLeases) }

// NICs lists the node's interfaces with their roles.
func (c Client) NICs(ctx context.Context) ([]NIC, error) { return get[[]NIC](ctx, c, OpNICs) }

// Drops lists the drop counters.
func (c Client) Drops(ctx context.Context) ([]Drop, error) { return get[[]Drop](ctx, c, OpDrops) }

func get[T any](ctx context.Context, c Client, op Op) (T, error) {
	var out T
	err := c.call(ctx, op, nil, &out)
	return out, err
}

// call sends one request and decodes the response's body into out, if out is
// not nil. Its errors match ErrUnavailable or are an *Error where the agent
// answered.
func (c Client) call(ctx context.Context, op Op, in, out any) error {
	request := Request{Version: Version, Op: op}
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode %s: %w", op, err)
		}
		request.Body = body
	}
	line, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode %s: %w", op, err)
	}

	ctx, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	response, err := c.answer(ctx, op, line)
	if err != nil {
		return err
	}
	if response.Error != nil {
		return response.Error
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(response.Body, out); err != nil {
		return fmt.Errorf("decode answer to %s: %w", op, err)
	}
	return nil
}

// answer asks the agent, or the Handler in its place.
func (c Client) answer(ctx context.Context, op Op, line []byte) (response Response, err error) {
	if c.Handler != nil {
		return c.Handler.answer(ctx, line, silent{}), nil
	}
	answer, err := c.exchange(ctx, append(line, '\n'))
	if err != nil {
		return response, fmt.Errorf("agent %s %s: %w: %w", c.path(), op, ErrUnavailable, err)
	}
	if err := json.Unmarshal(answer, &response); err != nil {
		return response, fmt.Errorf("agent %s %s: %w: %w", c.path(), op, ErrStranger, err)
	}
	return response, nil
}

// silent is a Logger for those who get the error anyway.
type silent struct{}

func (silent) Warn(string, ...any)  {}
func (silent) Error(string, ...any) {}

// exchange writes one line and reads one.
func (c Client) exchange(ctx context.Context, line []byte) ([]byte, error) {
	conn, err := dial(ctx, c.path())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { hangUp(conn) })
	defer stop()

	if _, err := conn.Write(line); err != nil {
		return nil, err
	}
	return readLine(conn, maxResponse)
}

func (c Client) path() string {
	if c.Path == "" {
		return DefaultSocket
	}
	return c.Path
}

func (c Client) timeout() time.Duration {
	if c.Timeout == 0 {
		return defaultTimeout
	}
	return c.Timeout
}

var errLineTooLong = errors.New("line too long")

// readLine reads up to and including a newline, at most limit bytes. A line
// that ends without one was cut short.
func readLine(r io.Reader, limit int64) ([]byte, error) {
	limited := &io.LimitedReader{R: r, N: limit}
	line, err := bufio.NewReader(limited).ReadBytes('\n')
	if err == nil {
		return line, nil
	}
	if errors.Is(err, io.EOF) {
		if limited.N == 0 {
			return nil, errLineTooLong
		}
		return nil, io.ErrUnexpectedEOF
	}
	return nil, err
}

// dial connects to a unix socket. It does so by system calls: net.Dial would
// link resolver and all, a sixth of a CNI binary. The socket blocks, with the
// deadline as its own time limit: waking by the runtime's poller takes a small
// program longer than the answer does.
func dial(ctx context.Context, path string) (*os.File, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(defaultTimeout)
	}
	if err := connect(fd, path, deadline); err != nil {
		return nil, errors.Join(err, syscall.Close(fd))
	}
	return os.NewFile(uintptr(fd), path), nil
}

// connect waits until the deadline where the listener's backlog is full.
func connect(fd int, path string, deadline time.Time) error {
	patience := syscall.NsecToTimeval(max(int64(time.Millisecond), int64(time.Until(deadline))))
	for _, option := range []int{syscall.SO_SNDTIMEO, syscall.SO_RCVTIMEO} {
		if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, option, &patience); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	for {
		err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("connect", err)
		}
	}
}

// hangUp ends a conversation from aside: whoever waits for the socket is told.
func hangUp(conn *os.File) {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) })
	}
}
