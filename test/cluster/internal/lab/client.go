// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Get fetches url's path from server as the outside client, over a
// connection of its own.
func (l *Lab) Get(ctx context.Context, server netip.AddrPort, path string) ([]byte, error) {
	type result struct {
		body []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		body, err := l.get(ctx, server, path)
		done <- result{body, err}
	}()
	r := <-done
	return r.body, r.err
}

func (l *Lab) get(ctx context.Context, server netip.AddrPort, path string) ([]byte, error) {
	ns, err := os.Open(filepath.Join(netnsDir, l.Netns("client")))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter client: %w", err)
	}
	deadline := time.Now().Add(5 * time.Second)
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.DialContext(ctx, "tcp", server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, server); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, response.Status, body)
	}
	return body, err
}

// Reaches tells whether argv succeeds as the outside client while it has a
// route to addr through the node m.
func (l *Lab) Reaches(ctx context.Context, m Machine, addr netip.Addr, argv ...string) (bool, error) {
	via := m.External.V4.Addr()
	if addr.Is6() {
		via = m.External.V6.Addr()
	}
	netns := l.Netns("client")
	route := fmt.Sprintf("%s via %s", addr, via)
	if err := ipBatch(ctx, netns, "route replace "+route); err != nil {
		return false, err
	}
	failed := l.Client(ctx, argv...).Run()
	return failed == nil, ipBatch(ctx, netns, "route del "+route)
}
