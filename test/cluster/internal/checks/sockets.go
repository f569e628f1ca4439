// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// sockets has clients connected to both of the Service's pods. One pod stops
// serving: the UDP sockets that lead to it end, the others don't. It serves
// again and is deleted: its TCP connections go on until it ends itself.
func (s *site) sockets(ctx context.Context) error {
	server, err := s.kubectl(ctx, "get", "service/echo", "-o", "jsonpath={.spec.clusterIP} {.status.loadBalancer.ingress[0].ip}")
	if err != nil {
		return err
	}
	cluster, external, _ := strings.Cut(server, " ")
	pod, err := s.udp(ctx, cluster)
	if err != nil {
		return err
	}
	if _, err := s.kubectl(ctx, "exec", pod, "--", "rm", "/tmp/away"); err != nil {
		return err
	}
	if _, err := s.kubectl(ctx, "wait", "--for=condition=Ready", "pod/"+pod, "--timeout=20s"); err != nil {
		return err
	}
	return s.tcp(ctx, netip.MustParseAddr(external))
}

// ask is a UDP client that goes on asking for the name of its server, over one
// connected socket.
const ask = `while echo hostname; do sleep 0.1; done | socat -t 0.1 - UDP:$0:81`

// udp returns the pod that it took out of service.
func (s *site) udp(ctx context.Context, cluster string) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	var asked sync.WaitGroup
	defer asked.Wait()
	defer cancel()
	clients := make([]*stream, 8) // 1 in 128: all have one server
	for i := range clients {
		clients[i] = &stream{}
		cmd := s.lab.Kubectl(ctx, "-n", namespace, "exec", "client", "--", "sh", "-c", ask, cluster)
		cmd.Stdout, cmd.Stderr = clients[i], clients[i]
		asked.Go(func() { clients[i].end(cmd.Run()) })
	}
	err := s.await(ctx, 20*time.Second, func() error {
		for i, c := range clients {
			if c.server() == "" {
				return fmt.Errorf("client %d has no answer: %s", i, c.tail())
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	gone := clients[0].server()
	if _, err := s.kubectl(ctx, "exec", gone, "--", "touch", "/tmp/away"); err != nil {
		return "", err
	}
	err = s.await(ctx, 20*time.Second, func() error {
		for i, c := range clients {
			if c.server() == gone && !c.ended() {
				return fmt.Errorf("client %d of %s goes on though that stopped serving", i, gone)
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	for i, c := range clients {
		switch {
		case c.server() != gone && c.ended():
			return "", fmt.Errorf("client %d of %s ended, though that serves: %s", i, c.server(), c.tail())
		case c.server() == gone && !aborted(c.tail()):
			return "", fmt.Errorf("client %d of %s ended otherwise: %s", i, gone, c.tail())
		}
	}
	return gone, nil
}

// aborted tells what a socket says that was ended: its next read, or its next
// write after nobody read.
func aborted(text string) bool {
	return strings.Contains(text, "Software caused connection abort") || strings.Contains(text, "Destination address required")
}

// tcp holds connections from outside while their server is deleted, which lingers
// for eight seconds: it answers for three at least, and new ones go elsewhere.
func (s *site) tcp(ctx context.Context, external netip.Addr) error {
	web := netip.AddrPortFrom(external, 80)
	held, err := s.lab.Hold(ctx, web)
	if err != nil {
		return err
	}
	defer held.Close()
	pod, err := held.Get("/hostname")
	if err != nil {
		return err
	}
	start := time.Now()
	if _, err := s.kubectl(ctx, "delete", "pod", pod, "--wait=false"); err != nil {
		return err
	}
	elsewhere := 0
	for time.Since(start) < 3*time.Second || elsewhere < 10 {
		got, err := held.Get("/hostname")
		if err != nil || got != pod {
			return fmt.Errorf("held connection to %s, %.1f s after its deletion: answer %q, %w", pod, time.Since(start).Seconds(), got, err)
		}
		body, err := s.lab.Get(ctx, web, "/hostname")
		if err != nil {
			return err
		}
		switch {
		case string(body) != pod:
			elsewhere++
		case elsewhere > 0 && time.Since(start) > 2*time.Second:
			return errors.New("a new connection reached a pod that is being deleted")
		}
	}
	s.say("%s answered over a held connection for %.1f s after its deletion; %d new ones went elsewhere", pod, time.Since(start).Seconds(), elsewhere)
	return nil
}

// stream is what a client prints.
type stream struct {
	mu   sync.Mutex
	text strings.Builder
	done bool
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	fmt.Fprintf(&s.text, " %v", err)
}

func (s *stream) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

// server is the pod that answers: its name comes again and again.
func (s *stream) server() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := strings.SplitN(s.text.String(), "echo-", 3)
	if len(rest) < 3 {
		return ""
	}
	return "echo-" + rest[1]
}

func (s *stream) tail() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.text.String()
	return text[max(0, len(text)-200):]
}
