// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// freePort returns an address of loopback that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startRedis starts a database that ends with the test.
func startRedis(t *testing.T) string {
	t.Helper()
	address := freePort(t)
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return address
}

func get(url string) (int, string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// is returns an error unless the URL answers with that status.
func is(url string, want int) error {
	status, body, err := get(url)
	if err == nil && status != want {
		err = fmt.Errorf("%s: got %d %s, want %d", url, status, body, want)
	}
	return err
}

func TestServeAndDrain(t *testing.T) {
	redis, listen := startRedis(t), freePort(t)
	url := "http://" + listen
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- serve(ctx, listen, &app{pod: "web-1", rows: rows{address: redis}}, 500*time.Millisecond)
	}()
	netlab.WaitFor(t, 10*time.Second, "readiness", func() error { return is(url+"/ready", 200) })

	_, body, err := get(url + "/?id=7")
	if err != nil {
		t.Fatal(err)
	}
	var got answer
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("answer %q: %v", body, err)
	}
	if want := (row{ID: 7, Text: "row 7"}); got.Pod != "web-1" || got.Row != want || !strings.HasPrefix(got.Client, "127.0.0.1:") {
		t.Errorf("answer: got %+v", got)
	}
	if err := is(url+"/?id=x", 400); err != nil {
		t.Error(err)
	}

	cancel()
	netlab.WaitFor(t, time.Second, "no readiness", func() error { return is(url+"/ready", 503) })
	if err := is(url+"/", 200); err != nil {
		t.Errorf("as a lame duck: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, _, err := get(url); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the end: got %v, want connection refused", err)
	}
}

func TestNoDatabase(t *testing.T) {
	app := &app{pod: "web-1", rows: rows{address: freePort(t)}}
	listen := freePort(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, listen, app, 0) }()
	netlab.WaitFor(t, 5*time.Second, "an answer", func() error { return is("http://"+listen+"/", 502) })
	if err := is("http://"+listen+"/ready", 503); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
}
