// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// The configuration lists that are compared.
const (
	ownConf  = "/etc/cni/net.d/00-patchbay.conflist"
	peerConf = "/etc/cni/net.d/90-ptp.conflist"
	peerList = `{"cniVersion":"1.0.0","name":"ptp","plugins":[{"type":"ptp","mtu":1500,
 "ipam":{"type":"host-local","dataDir":"/run/host-local","ranges":[[{"subnet":"10.99.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`
)

// podsPerRound is how many pods come and go in each round.
const podsPerRound = 100

// times is what a round of pods took, each ADD, each DEL, and all.
type times struct {
	Add, Del []time.Duration
	Total    time.Duration
}

// measureCNI compares ADD and DEL with the reference ptp and host-local, alone and eight at a time. The
// reference has a node of its own, where no agent looks at its links.
func measureCNI(l *lab) []figure {
	node, bare := l.site(1).Nodes[0].Node, netlab.StartNode(l, "peer")
	bare.Exec(l, "mkdir", "-p", "/opt/cni/bin", filepath.Dir(peerConf))
	for _, peer := range []string{"ptp", "host-local"} {
		bare.Exec(l, "cp", l.program("peers/"+peer), "/opt/cni/bin/")
	}
	if err := os.WriteFile(bare.Path(peerConf), []byte(peerList), 0o644); err != nil {
		l.Fatalf("write %s: %v", peerConf, err)
	}
	var own, peer [2]times
	for i, parallel := range []string{"1", "8"} {
		count := strconv.Itoa(podsPerRound)
		l.worker(bare, "", &peer[i], "pods", count, peerConf, parallel)
		l.worker(node, "", &own[i], "pods", count, ownConf, parallel)
	}
	p := func(name string, pick func(times) []time.Duration, i, percent int) figure {
		return figure{name, milliseconds(percentile(pick(own[i]), percent)), "ms", "ptp+host-local", milliseconds(percentile(pick(peer[i]), percent))}
	}
	add, del := func(t times) []time.Duration { return t.Add }, func(t times) []time.Duration { return t.Del }
	pairs := func(t times) float64 { return podsPerRound / t.Total.Seconds() }
	return []figure{
		p("cni-add-p50", add, 0, 50), p("cni-add-p99", add, 0, 99), p("cni-del-p50", del, 0, 50),
		p("cni-add-p50-8", add, 1, 50), p("cni-add-p99-8", add, 1, 99), p("cni-del-p50-8", del, 1, 50),
		{"cni-pairs-8", pairs(own[1]), "1/s", "ptp+host-local", pairs(peer[1])},
	}
}

// podJob adds and deletes pods: CONF PARALLEL. The namespaces are there before the clock starts.
func podJob(count int, args []string) (any, error) {
	conf := args[0]
	parallel, err := strconv.Atoi(args[1])
	if err != nil {
		return nil, err
	}
	list, err := libcni.ConfListFromFile(conf)
	if err != nil {
		return nil, err
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{"/opt/cni/bin"}, "/run/cni", nil)
	l := newLab("")
	namespaces := make([]*netlab.Namespace, count)
	for i := range namespaces {
		namespaces[i] = netlab.New(l)
	}
	t := times{Add: make([]time.Duration, count), Del: make([]time.Duration, count)}
	var first error
	var once sync.Once
	each := func(took []time.Duration, call func(*libcni.RuntimeConf) error) {
		inParallel(parallel, count, func(i int) {
			rt := &libcni.RuntimeConf{ContainerID: fmt.Sprintf("%s-%d", list.Name, i), NetNS: namespaces[i].Path(), IfName: "eth0",
				Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "bench"}, {"K8S_POD_NAME", fmt.Sprintf("pod-%d", i)}}}
			start := time.Now()
			if err := call(rt); err != nil {
				once.Do(func() { first = err })
			}
			took[i] = time.Since(start)
		})
	}
	start := time.Now()
	each(t.Add, func(rt *libcni.RuntimeConf) error {
		_, err := cni.AddNetworkList(context.Background(), list, rt)
		return err
	})
	each(t.Del, func(rt *libcni.RuntimeConf) error { return cni.DelNetworkList(context.Background(), list, rt) })
	t.Total = time.Since(start)
	return t, first
}

// inParallel calls f for 0 to count-1 from so many goroutines.
func inParallel(parallel, count int, f func(int)) {
	next := make(chan int)
	var all sync.WaitGroup
	for range parallel {
		all.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	all.Wait()
}
