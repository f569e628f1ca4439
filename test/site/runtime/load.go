// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds one connection: longer than a lost SYN takes to be sent again.
const patience = 3 * time.Second

// loaded is what became of the connections.
type loaded struct {
	Done, Failed int
	// Slow counts those that took longer than a second: a packet was lost.
	Slow  int
	First string // error
}

// load makes new connections at a rate per second, each of which sends a line and
// waits for it to come back, for so many seconds.
func load(rate, seconds int, address string) *loaded {
	var mu sync.Mutex
	var all sync.WaitGroup
	result := &loaded{}
	begin := time.Now()
	for i := range rate * seconds {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		all.Go(func() {
			start := time.Now()
			_, err := exchange(address)
			mu.Lock()
			defer mu.Unlock()
			result.Done++
			if time.Since(start) > time.Second {
				result.Slow++
			}
			if err == nil {
				return
			}
			result.Failed++
			if result.First == "" {
				result.First = fmt.Sprintf("%.1f s: %v", time.Since(begin).Seconds(), err)
			}
		})
	}
	all.Wait()
	return result
}

// exchange is one connection. It tells how many of its packets were sent again.
func exchange(address string) (resent uint32, err error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	message := []byte("hello\n")
	if _, err := conn.Write(message); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(conn, message); err != nil {
		return 0, err
	}
	return retransmitted(conn)
}

// retransmitted tells how many packets of a connection were sent again.
func retransmitted(conn net.Conn) (count uint32, err error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return 0, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	control := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			count = info.Total_retrans
		}
	})
	return count, errors.Join(control, err)
}

// echo sends back what it gets, until it is killed.
func echo(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn) // the client ends it
		}()
	}
}
