// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// churned is what became of the pods.
type churned struct {
	// Addresses that were given, each as often as it was.
	Addresses []string
	// Retries counts the calls that failed and were made again.
	Retries int
	// Errors of calls that failed as often as was allowed.
	Errors []string
}

// retry is how long after a failed call it is made again.
const retry = 100 * time.Millisecond

// owner is the netlab.TB of the pods' namespaces: they end with the program.
type owner struct{}

func (owner) Helper()        {}
func (owner) Name() string   { return "runtime" }
func (owner) Cleanup(func()) {}
func (owner) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}
func (o owner) Fatalf(format string, args ...any) {
	o.Logf(format, args...)
	os.Exit(1)
}

// churn adds pods, so many at a time, and when all are there deletes them. A call
// that fails is made again, as kubelet does, up to the number of attempts.
func churn(conf string, count, parallel, attempts int) (*churned, error) {
	list, err := libcni.ConfListFromFile(conf)
	if err != nil {
		return nil, err
	}
	c := &churning{cni: library(), list: list, attempts: attempts, namespaces: make([]*netlab.Namespace, count)}
	pods := make([]*libcni.RuntimeConf, count)
	for i := range pods {
		name := fmt.Sprintf("pod-%d", i)
		c.namespaces[i] = netlab.New(owner{})
		pods[i] = &libcni.RuntimeConf{ContainerID: name, NetNS: c.namespaces[i].Path(), IfName: "eth0", Args: podArgs(name)}
	}
	each(parallel, pods, c.add)
	each(parallel, pods, c.del)
	runtime.KeepAlive(c.namespaces)
	return &c.result, nil
}

// each calls f for all pods, so many at a time.
func each(parallel int, pods []*libcni.RuntimeConf, f func(*libcni.RuntimeConf)) {
	next := make(chan *libcni.RuntimeConf)
	var all sync.WaitGroup
	for range parallel {
		all.Go(func() {
			for p := range next {
				f(p)
			}
		})
	}
	for _, p := range pods {
		next <- p
	}
	close(next)
	all.Wait()
}

// churning is a churn that runs.
type churning struct {
	cni      *libcni.CNIConfig
	list     *libcni.NetworkConfigList
	attempts int
	// namespaces are held here: one that nothing refers to is closed.
	namespaces []*netlab.Namespace

	mu     sync.Mutex
	result churned
}

func (c *churning) add(rt *libcni.RuntimeConf) {
	c.try(rt, func() error {
		result, err := c.cni.AddNetworkList(context.Background(), c.list, rt)
		if err != nil {
			// What kubelet does with a sandbox whose network failed.
			return errors.Join(err, c.cni.DelNetworkList(context.Background(), c.list, rt))
		}
		current, err := types100.NewResultFromResult(result)
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, ip := range current.IPs {
			c.result.Addresses = append(c.result.Addresses, ip.Address.IP.String())
		}
		return nil
	})
}

func (c *churning) del(rt *libcni.RuntimeConf) {
	c.try(rt, func() error { return c.cni.DelNetworkList(context.Background(), c.list, rt) })
}

// try calls f until it succeeds or the attempts are used up.
func (c *churning) try(rt *libcni.RuntimeConf, f func() error) {
	for attempt := 1; ; attempt++ {
		err := f()
		if err == nil {
			return
		}
		c.mu.Lock()
		if attempt == c.attempts {
			c.result.Errors = append(c.result.Errors, fmt.Sprintf("%s: %v", rt.ContainerID, err))
			c.mu.Unlock()
			return
		}
		c.result.Retries++
		c.mu.Unlock()
		time.Sleep(retry)
	}
}
